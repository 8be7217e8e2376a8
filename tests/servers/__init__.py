"""Real servers, on loopback, each started and ended by what asks for it."""
