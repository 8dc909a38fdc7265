"""Networks: encoders, networks whose weights are fast, and B networks side by side. They know nothing of learners."""
