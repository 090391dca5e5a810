"""The paper's findings in the small: every stage from the bundled base model to the report."""
