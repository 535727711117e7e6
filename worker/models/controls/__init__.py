"""ControlNets: which an operator has, whether they fit the model, and what they add to its UNet.

Zhang, Rao and Agrawala, "Adding Conditional Control to Text-to-Image Diffusion Models", 2023. `shapes` reads headers,
`catalogue` looks through a folder; neither needs torch. `nets` loads and runs.
"""
