"""Export a model of ours to the format of the original implementation.

Run it with --help; `titok-hf convert export` is the same command. What does the work can be imported from here.
"""

if __name__ == "__main__":
    from titok_hf.cli import main

    main("convert", "export")
else:
    from titok_hf.original.conversion import export_to_original

    __all__ = ["export_to_original"]
