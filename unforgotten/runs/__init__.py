"""What lies on disk: folders, digests, leases, results, and files that are written whole or not at all."""
