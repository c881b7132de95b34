"""Programs for developers of sparsedial: training the zoo, generating pages, checks. Not part of the package."""
