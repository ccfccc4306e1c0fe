"""A fleet of real workers that repair real images, under the decisions of the simulator."""
