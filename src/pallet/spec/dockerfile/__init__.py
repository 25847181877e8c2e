"""The Dockerfile as a document: text, instructions, variables. Nothing here builds anything."""
