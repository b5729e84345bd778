"""The values of peer groups, as a realm keeps them (spec: values.md)."""
