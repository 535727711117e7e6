"""The OpenAI Images shape over the same jobs: knows that API's names; draws nothing and queues nothing itself."""
