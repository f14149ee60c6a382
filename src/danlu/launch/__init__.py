"""Where processes run: on this machine (local, nursery), or on many hosts by orders, whoever starts the helpers."""
