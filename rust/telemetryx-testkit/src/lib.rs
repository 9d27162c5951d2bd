//! For tests only: starts and kills the service.
