"""What serves people rather than results: builders and imports, the playground, the report, tools for notebooks."""
