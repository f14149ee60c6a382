"""One file per vendor, found by name; each is a `Driver` (fleet/driver.py): tests/fleet/test_vendors.py holds it."""
