"""What people see. Imports no torch."""
