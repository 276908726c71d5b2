"""The mixin of the models: loading, saving and pushing, with checks that the libraries lack.

A model file imports this module and nothing else of `checkpoints`. Readers, checks, cards and transfers are imported
when a method here is called.
"""

from __future__ import annotations

import os
from importlib import import_module
from pathlib import Path
from typing import Any

_reader_modules: list[str] = []
_PUSH_ARGUMENTS = ("repo_id", "commit_message", "private", "token", "revision", "create_pr")
# The library's own `push_to_hub` serves these; ours uploads a whole repository.
_LIBRARY_PUSH_ARGUMENTS = {"subfolder", "tags", "commit_description"}


def add_reader(module: str) -> None:
    """
    Let `from_pretrained` read one more format. The package's `__init__` adds the reader of the original's formats,
    since this module must not import `titok_hf.original`.

    Args:
        module: full name of a module with a function `read(cls, source, original_variant, **kwargs)`. It gets the
            arguments of `from_pretrained`, and returns an instance of `cls`, or None if `source` has another format.
    """
    if module not in _reader_modules:
        _reader_modules.append(module)


class ReaderMixin:
    """A mixin before the library's base class: `from_pretrained` reads the formats of [`add_reader`] too."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: Any, *args: Any, original_variant: str | None = None, **kwargs: Any
    ) -> Any:
        """
        Load a checkpoint that `save_pretrained` wrote, or one of the original implementation.

        Args:
            pretrained_model_name_or_path: a folder or the id of a Hub repository, in our format or the original's; or
                a single weights file of the original (`.bin`), which does not say its architecture: name it with
                `original_variant`.
            original_variant: name of the released checkpoint that a single file or a folder without a configuration
                holds, such as `"l32"`.
            args, kwargs: those of the library's `from_pretrained`. For models, `output_loading_info=True` returns the
                names that are missing or unknown instead of refusing them, and `ignore_mismatched_sizes=True`
                initialises tensors of another shape with random numbers.

        Raises:
            OSError: no checkpoint there; files that are damaged, do not fit one another, or hold NaN or infinity; an
                index that names files outside of its folder; or a pickle that holds more than tensors.
            ValueError: a checkpoint of another architecture, or `use_safetensors=False`.
        """
        from .loading import load_naming_the_file

        source = pretrained_model_name_or_path
        for module in _reader_modules:
            instance = import_module(module).read(cls, source, original_variant=original_variant, **kwargs)
            if instance is not None:
                return instance
        return load_naming_the_file(cls, super().from_pretrained, source, args, kwargs)  # type: ignore[misc]


class PushMixin:
    """A mixin before the library's base class: `push_to_hub` makes one commit and writes our model card."""

    def push_to_hub(
        self,
        repo_id: str,
        commit_message: str | None = None,
        private: bool | None = None,
        token: str | bool | None = None,
        create_pr: bool = False,
        revision: str | None = None,
        **options: Any,
    ) -> str:
        """
        Save to the Hub in one commit: after a failure the repository is as it was.

        Args:
            repo_id: "user/name"; made if missing.
            commit_message: title of the commit.
            private: whether a new repository is private.
            token: of the Hub user; by default the one that is logged in.
            create_pr: whether to open a pull request instead of committing.
            revision: branch to commit to; made from main if missing.
            options: `variant`, `max_shard_size`, and whatever else `save_pretrained` takes. With `subfolder` (a part
                of a larger repository), `tags` or `commit_description`, the library's own `push_to_hub` is called.

        Returns:
            the address of the commit or of the pull request.

        Raises:
            OSError: no right to write there, or no connection.
            ValueError: an invalid id.
        """
        chosen: dict[str, Any] = {"private": private, "token": token, "create_pr": create_pr}
        if options.keys() & _LIBRARY_PUSH_ARGUMENTS:
            chosen |= options | ({} if revision is None else {"revision": revision})
            return super().push_to_hub(repo_id, commit_message=commit_message, **chosen)  # type: ignore[misc]
        from .push import push_saved

        return push_saved(self, repo_id, options, message=commit_message, revision=revision, **chosen)

    def _push_after_saving(self, save_directory: str | os.PathLike, options: dict[str, Any]) -> None:
        """End of `save_pretrained(push_to_hub=True)`. By default the repository is named like the folder."""
        given = {name: value for name, value in options.items() if value is not None}
        self.push_to_hub(given.pop("repo_id", Path(os.path.abspath(save_directory)).name), **given)


class CheckpointMixin(PushMixin, ReaderMixin):
    """
    A mixin before the library's base class of a model. Weights are read from safetensors only and compared with the
    configuration, because the libraries fill missing tensors with random numbers. A folder is written completely or
    not at all.
    """

    def save_pretrained(
        self,
        save_directory: str | os.PathLike,
        is_main_process: bool = True,
        *,
        variant: str | None = None,
        max_shard_size: int | str | None = None,
        push_to_hub: bool = False,
        **kwargs: Any,
    ) -> None:
        """
        Save as the library does, but change the folder only when all files are written: weights of the same variant
        are replaced, whatever their form, and other files stay.

        Args:
            save_directory: the folder; made if missing.
            is_main_process: whether this process is the one that writes.
            variant: name of the weights' variant, such as "fp16".
            max_shard_size: largest size of a weights file ("5GB").
            push_to_hub: whether to upload as well, with `repo_id` and others of `push_to_hub` from `kwargs`.
            kwargs: the library's.

        Raises:
            OSError: the folder cannot be written.
        """
        from .layout import checkpoint_atomically

        sizes = {"variant": variant} | ({} if max_shard_size is None else {"max_shard_size": max_shard_size})
        # Several processes may each write a part: that is left to the library.
        if not is_main_process or kwargs.get("distributed_checkpoint"):
            kwargs |= {"is_main_process": is_main_process, "push_to_hub": push_to_hub}
            super().save_pretrained(save_directory, **sizes, **kwargs)  # type: ignore[misc]
            return
        push_arguments = {name: kwargs.pop(name) for name in _PUSH_ARGUMENTS if name in kwargs}
        with checkpoint_atomically(save_directory) as folder:
            super().save_pretrained(folder, **sizes, **kwargs)  # type: ignore[misc]
        if push_to_hub:
            self._push_after_saving(save_directory, sizes | push_arguments)
