"""Models exported to ONNX Runtime, OpenVINO and ExecuTorch: writing them, checking them, and a pipeline on them."""
