"""The package in which SGLang looks for models before its own (`SGLANG_EXTERNAL_MODEL_PACKAGE`)."""
