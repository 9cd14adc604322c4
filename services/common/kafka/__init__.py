"""What every service that publishes to Kafka shares."""
