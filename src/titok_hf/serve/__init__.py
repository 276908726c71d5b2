"""A web page to play with TiTok models: `titok-hf serve`. Built with Gradio, from the extra `serve`."""
