"""The image processors under transformers' own suite."""

import unittest

from transformers.utils import is_torchvision_available

from titok_hf import TiTokImageProcessor, TiTokImageProcessorPil
from upstream_sources import upstream_suite

upstream = upstream_suite("transformers", "test_image_processing_common")


class TiTokImageProcessingTester(upstream.ImageProcessingTester):
    """What the suite asks about a processor: its classes, its arguments and the shape of what it returns."""

    def __init__(self, parent: unittest.TestCase) -> None:
        super().__init__(
            parent,
            size={"shortest_edge": 32},
            crop_size={"height": 32, "width": 32},
            do_resize=True,
            do_center_crop=True,
            do_convert_rgb=True,
            do_exif_transpose=True,
            do_enlarge=True,
        )

    def _get_image_processing_classes(self) -> dict[str, type]:
        """Upstream's looks into its own list of models, where classes outside the library are not."""
        classes = {"pil": TiTokImageProcessorPil}
        return classes | {"torchvision": TiTokImageProcessor} if is_torchvision_available() else classes


class TiTokImageProcessingTest(upstream.ImageProcessingTestMixin, unittest.TestCase):
    image_processor_tester_class = TiTokImageProcessingTester
    test_cast_dtype = True

    def test_new_models_require_torchvision_backend(self) -> None:
        """Upstream's wants both backends in the list, which holds those that can run here."""
        if not is_torchvision_available():
            self.skipTest("torchvision is not installed")
        super().test_new_models_require_torchvision_backend()

    @unittest.skip("its script imports transformers alone, which knows this class once titok_hf is imported")
    def test_pil_can_run_without_torchvision(self) -> None: ...
