"""Heads: small networks that give one number for an embedding; read, converted and trained here."""
