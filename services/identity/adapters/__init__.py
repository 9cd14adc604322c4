"""Technology behind the ports: argon2, JSON Web Tokens, encryption of private keys."""
