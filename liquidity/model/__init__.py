"""The registered model: made, checked, loaded, compared."""

import os

# ONNX Runtime 1.32 reports how it is used to its maker, from the moment that it is imported, and
# keeps an id for that in the user's cache folder. Whoever wants that sets the variable to 0.
os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
