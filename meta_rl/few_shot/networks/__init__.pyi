from .feed_forward import FewShotNetwork as FewShotNetwork
from .feed_forward import conv4 as conv4
from .feed_forward import draw_weights as draw_weights
from .feed_forward import koch_network as koch_network
from .feed_forward import omniglot_mlp as omniglot_mlp
from .feed_forward import residual_head as residual_head
from .feed_forward import sinusoid_mlp as sinusoid_mlp
from .feed_forward import text_encoder as text_encoder
