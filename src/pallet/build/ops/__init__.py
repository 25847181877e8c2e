"""Operations of a build on files: what is selected, how it is copied, and the workers that do it."""
