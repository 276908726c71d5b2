"""The names of the ImageNet classes, in the order in which every model of ImageNet counts them."""

from titok_hf.class_names import IMAGENET_CLASSES, ClassNames, imagenet_id2label

# Landmarks that anybody who works with ImageNet knows by number.
KNOWN = {
    0: "tench",
    1: "goldfish",
    207: "golden retriever",
    281: "tabby",
    388: "giant panda",
    417: "balloon",
    980: "volcano",
}


def test_names_stand_at_their_numbers():
    id2label = imagenet_id2label()
    assert list(id2label) == list(range(IMAGENET_CLASSES))
    for label, name in KNOWN.items():
        assert name in [synonym.strip() for synonym in id2label[label].split(",")]


def test_every_class_can_be_named():
    id2label = imagenet_id2label()
    first = [names.split(",")[0] for names in id2label.values()]
    assert len(set(first)) == IMAGENET_CLASSES
    assert ClassNames(id2label, IMAGENET_CLASSES).label_ids(["crane bird", "construction crane"]) == [134, 517]
