"""From an OpenAI-shaped request to streamed tokens: pages, schedule, engine, API."""
