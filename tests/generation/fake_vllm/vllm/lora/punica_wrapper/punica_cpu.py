class PunicaWrapperCPU:
    pass
