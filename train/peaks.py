"""How many operations a second a device could do at best."""

PEAKS = {
    # Dense bfloat16 (V100: float16) in TFLOP/s, from the makers' data sheets; the first
    # name found in the device's own counts. On a TPU v2 and v3 a device is one core.
    "B200": 2250.0,
    "H200": 989.0,
    "H100 PCIe": 756.0,
    "H100": 989.0,
    "A100": 312.0,
    "A10": 125.0,
    "L40S": 362.0,
    "L4": 121.0,
    "RTX 4090": 165.2,
    "RTX 3090": 71.0,
    "V100": 125.0,
    "TPU v2": 22.5,
    "TPU v3": 61.5,
    "TPU v4": 275.0,
    "TPU v5 lite": 197.0,
    "TPU v5e": 197.0,
    "TPU v5": 459.0,
    "TPU v6": 918.0,
}


def peak_flops(device_kind: str) -> float | None:
    """Operations a second of a device, or None if it is not in the table."""
    for name, tera in PEAKS.items():
        if name in device_kind:
            return tera * 1e12
    return None
