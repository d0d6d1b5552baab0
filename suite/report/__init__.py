"""Reports: tables, comparisons and one static page, rebuilt from records at any time. Never loads a model or torch."""
