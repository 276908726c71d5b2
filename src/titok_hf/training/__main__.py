"""`python -m titok_hf.training RECIPE --set key=value`, alone or under `accelerate launch`."""

import argparse
import logging

import yaml

from .configs import GeneratorRecipe, TokenizerRecipe
from .recipes import RecipeError, find_recipe, load_recipe


def main(arguments: list[str] | None = None) -> None:
    """Trains what the recipe's `kind` says; a second call with the same recipe goes on where the first one stopped."""
    parser = argparse.ArgumentParser(prog="titok_hf.training", description="Train a tokenizer or a generator.")
    parser.add_argument("recipe", help="name of a recipe of this package, or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of it")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)

    try:
        kind = yaml.safe_load(find_recipe(options.recipe).read_text(encoding="utf-8")).get("kind")
        if kind == "tokenizer":
            from .tokenizer import train_tokenizer

            folder = train_tokenizer(load_recipe(TokenizerRecipe, options.recipe, options.set))
        elif kind == "generator":
            from .generator import train_generator

            folder = train_generator(load_recipe(GeneratorRecipe, options.recipe, options.set))
        else:
            raise RecipeError(f'The recipe says kind: {kind}. It must be "tokenizer" or "generator".')
    except (RecipeError, FileNotFoundError) as error:
        parser.exit(2, f"{error}\n")
    print(f"The model is in {folder}")


if __name__ == "__main__":
    main()
