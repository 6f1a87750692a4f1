"""What a run came to, for people and for machines: a terminal, JSON, JUnit's XML, a page. They only read a `Run`."""
