"""The commands of ``normcompass``, one module each; ``montecarlo.cli`` joins them."""
