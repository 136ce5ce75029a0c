"""Certificates: what no attack can break. Bounds of networks by linear relaxation, and branch and bound over ReLUs."""
