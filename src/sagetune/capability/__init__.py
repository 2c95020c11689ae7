"""What an agent can do, capability by capability: items that are asked, how they are judged, reports with intervals."""
