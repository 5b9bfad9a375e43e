"""What an S3 client finds in its environment when tests have a server of their own."""


def environment(endpoint: str) -> dict[str, str]:
    """Variables for the server at `endpoint` (http://host:port)."""
    return {
        "AWS_ENDPOINT_URL": endpoint,
        "AWS_ACCESS_KEY_ID": "test",
        "AWS_SECRET_ACCESS_KEY": "test",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
