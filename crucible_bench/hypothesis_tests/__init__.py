"""The tests, one file each: groups of numbers in, one `TestResult` out."""
