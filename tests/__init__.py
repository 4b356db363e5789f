"""Tests of HetSpec; the folders mirror the packages."""
