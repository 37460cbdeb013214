"""Object stores behind one small contract (base.py)."""
