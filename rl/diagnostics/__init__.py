"""Measures the accuracy of C and of its action gradient against ground truth from saved simulator states."""
