"""Convert the MaskGIT-VQGAN, from its PyTorch or its Flax file, to our format.

Run it with --help; `titok-hf convert vqgan` is the same command. What does the work can be imported from here.
"""

if __name__ == "__main__":
    from titok_hf.cli import main

    main("convert", "vqgan")
else:
    from titok_hf.original.conversion import convert_vqgan

    __all__ = ["convert_vqgan"]
