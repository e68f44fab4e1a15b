"""Four Nameko services that stay consistent: users, billing, orders, notifications."""

import warnings

# Nameko 2 stands on eventlet, whose authors ask new projects to choose something else; ARCHITECTURE.md weighs it.
# Said once there, it need not be said by every command.
warnings.filterwarnings("ignore", message="\\s*Eventlet is deprecated")
