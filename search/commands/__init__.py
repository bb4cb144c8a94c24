"""The subcommands of ``crossvit``, in groups. Heavy imports happen inside the functions that need them."""
