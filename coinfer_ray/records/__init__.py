"""Records of really trained strategies: their files, and those that ship."""
