"""`python -m titok_hf.training RECIPE --set key=value`, alone or under `accelerate launch`."""

import argparse

from .recipes import RecipeError
from .start import load_training_recipe, speak_of_training_only, train


def main(arguments: list[str] | None = None) -> None:
    """Trains what the recipe's `kind` says; a second call with the same recipe goes on where the first one stopped."""
    parser = argparse.ArgumentParser(prog="titok_hf.training", description="Train a tokenizer or a generator.")
    parser.add_argument("recipe", help="name of a recipe of this package, or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of it")
    parser.add_argument("--push-to-hub", metavar="USER/NAME", help="upload the finished model")
    options = parser.parse_args(arguments)
    if options.push_to_hub is not None:
        options.set.append(f"push_to_hub={options.push_to_hub}")
    speak_of_training_only()
    try:
        folder = train(load_training_recipe(options.recipe, options.set))
    except RecipeError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt as stop:
        parser.exit(130, f"{stop}\n")
    except (FloatingPointError, MemoryError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"The model is in {folder}")


if __name__ == "__main__":
    main()
