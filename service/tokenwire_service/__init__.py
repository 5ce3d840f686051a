"""What every Tokenwire service needs: errors, serving, lifecycle, TLS, logs and telemetry."""
