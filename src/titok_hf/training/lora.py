"""A LoRA adapter of a generator in training: the trained pipeline, its new classes, and the file of the adapter."""

from collections.abc import Sequence
from pathlib import Path

import torch

from titok_hf.checkpoints.lora_mixin import check_peft
from titok_hf.modeling_maskgit import MaskGitTransformer1DModel
from titok_hf.pipeline_titok import TiTokPipeline

from .configs import LoraConfig
from .recipes import RecipeError
from .tokenizer import load_model

_ADAPTER = "default"


def load_pipeline(source: str) -> TiTokPipeline:
    """
    The pipeline that a recipe with `lora` names in `init_from`.

    Raises:
        RecipeError: there is none, it has no generator, or peft is not installed.
    """
    try:
        check_peft()
    except ImportError as error:
        raise RecipeError(f"lora: {error}") from error
    pipeline = load_model(TiTokPipeline, source, "init_from")
    if pipeline.transformer is None:
        raise RecipeError(f"init_from is {source!r}, a pipeline without a generator. Name one that generates images.")
    return pipeline


class LoraAdapter:
    """
    The trained parameters of a pipeline's generator: the matrices of LoRA, and the embeddings of new classes. All
    others are frozen.

    Args:
        pipeline: its generator is changed in place.
        class_names: of the data. Those that the pipeline does not have are added to its classes.
        config: of the recipe.
    Raises:
        RecipeError: `target_modules` are not in the generator.
    """

    def __init__(self, pipeline: TiTokPipeline, class_names: Sequence[str], config: LoraConfig):
        self.model: MaskGitTransformer1DModel = pipeline.transformer
        self.new_names = [name for name in class_names if name not in pipeline.classes]
        self.first_label = self.model.config.num_classes
        if self.new_names:
            # The mean of the known classes: a new class begins as an image of any of them.
            rows = self.model.class_embeddings.mean(dim=0, keepdim=True).repeat(len(self.new_names), 1)
            pipeline.add_classes(self.new_names, rows)
        self.labels = torch.tensor(pipeline.get_label_ids(list(class_names)))
        self.model.requires_grad_(False)
        self._add_matrices(config)
        if self.new_names:
            self._train_new_rows()

    def _add_matrices(self, config: LoraConfig) -> None:
        from peft import LoraConfig as PeftConfig

        names = {
            name.rpartition(".")[2] for name, module in self.model.named_modules() if type(module) is torch.nn.Linear
        }
        ends = {target.rpartition(".")[2] for target in config.target_modules}
        if not ends or ends - names:
            raise RecipeError(
                f"lora.target_modules has {sorted(ends - names) or 'no name'}, which the generator does not have. "
                f"Choose from {', '.join(sorted(names))}."
            )
        values = {"r": config.rank, "lora_alpha": config.alpha, "lora_dropout": config.dropout}
        self.model.add_adapter(PeftConfig(**values, target_modules=list(config.target_modules)), adapter_name=_ADAPTER)

    def _train_new_rows(self) -> None:
        """Gradients of the embedding table are those of the new classes alone, so that no other row changes."""
        weight = self.model.token_embedding.weight.requires_grad_(True)
        is_new = torch.zeros(len(weight), 1, dtype=torch.bool)
        is_new[self.model.config.codebook_size + 1 + self.first_label : -1] = True
        rows = is_new.to(weight.device)
        weight.register_hook(lambda gradient: torch.where(rows.to(gradient.device), gradient, 0))

    def save(self, folder: Path, weights: dict[str, torch.Tensor]) -> None:
        """Writes the adapter with these weights of the generator, for `TiTokPipeline.load_lora_weights`."""
        from peft import get_peft_model_state_dict

        layers = get_peft_model_state_dict(self.model, state_dict=weights, adapter_name=_ADAPTER)
        first = self.model.config.codebook_size + 1 + self.first_label
        rows = weights["token_embedding.weight"][first:-1]
        TiTokPipeline.save_lora_weights(
            folder,
            {name: layer for name, layer in layers.items() if "lora_" in name},
            self.model.peft_config[_ADAPTER].to_dict(),
            rows if self.new_names else None,
            self.new_names,
        )
