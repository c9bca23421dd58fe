"""The training toolkit: from labeled CTs to a weights file that the module lists."""
