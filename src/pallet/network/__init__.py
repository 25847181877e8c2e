"""Networks: the default bridge, address management, published ports, network sandboxes."""
