"""Code that every stage uses: errors, files, params.yaml and the names of the variants."""
