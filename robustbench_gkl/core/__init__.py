"""What every room uses: errors, exact numbers, files, locks, registries, random numbers, threat models, devices."""
