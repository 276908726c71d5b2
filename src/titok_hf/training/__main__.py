"""`python -m titok_hf.training RECIPE --set key=value`, alone or under `accelerate launch`."""

import argparse

from titok_hf.boundary import run


def main(arguments: list[str] | None = None) -> None:
    """Trains what the recipe's `kind` says; a second call with the same recipe goes on where the first one stopped."""
    parser = argparse.ArgumentParser(prog="titok_hf.training", description="Train a tokenizer or a generator.")
    parser.add_argument("recipe", help="name of a recipe of this package, or the path of a YAML file")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="override a value of it")
    parser.add_argument("--push-to-hub", metavar="USER/NAME", help="upload the finished model")
    options = parser.parse_args(arguments)
    from .configs import load_training_recipe
    from .recipes import RecipeError

    if options.push_to_hub is not None:
        options.set.append(f"push_to_hub={options.push_to_hub}")
    try:
        recipe = load_training_recipe(options.recipe, options.set)
        # This imports torch, which takes seconds: a wrong recipe is refused before.
        from .start import speak_of_training_only, train

        speak_of_training_only()
        folder = train(recipe)
    except RecipeError as error:
        parser.exit(2, f"{error}\n")
    except KeyboardInterrupt as stop:
        parser.exit(130, f"{stop}\n")
    except (FloatingPointError, MemoryError, OSError) as error:
        parser.exit(1, f"{error}\n")
    print(f"The model is in {folder}")


if __name__ == "__main__":
    run(main)
