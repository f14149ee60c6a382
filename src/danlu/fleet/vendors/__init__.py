"""One file per vendor, found by its name; each is a `Driver` (fleet/driver.py) and passes tests/test_vendors.py."""
