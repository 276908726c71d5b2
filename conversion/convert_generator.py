"""Convert an original MaskGIT generator, with its tokenizer to a complete pipeline, to our format.

Run it with --help; `titok-hf convert generator` is the same command. What does the work can be imported from here.
"""

if __name__ == "__main__":
    from titok_hf.cli import main

    main("convert", "generator")
else:
    from titok_hf.original.conversion import convert_generator

    __all__ = ["convert_generator"]
