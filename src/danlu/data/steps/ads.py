"""Adverts and boilerplate of web pages, English and Chinese: such lines go, and a page that is little else goes whole.

The lists are short on purpose: each phrase is one that prose hardly ever has in a line of its own.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import replace

from danlu.data.document import Document, Drop

MOST = 0.5  # of the characters in such lines; above it the document goes
LONGEST, LONGEST_CHINESE = (
    160,
    80,
)  # characters of a line that may be an advert; longer ones are prose that mentions one
ENGLISH = """click here|buy now|shop now|order now|order today|add to cart|add to basket|free shipping|free delivery
|limited time offer|special offer|money back guarantee|best price|lowest price|discount code|promo code|coupon code
|subscribe to our|sign up for our|join our newsletter|enter your email|follow us on|like us on facebook|share this:
|share on facebook|share on twitter|tweet this|all rights reserved|advertisement|sponsored content|sponsored by
|related posts|related articles|you may also like|read more »|leave a comment|log in to comment|powered by wordpress
|accept all cookies|cookie settings|we use cookies|privacy policy|terms of service|terms of use|back to top
|skip to (?:main )?content|call us today|contact us today|get a free quote|request a quote|online casino|sports betting
|payday loans?|cheap (?:viagra|cialis)|weight loss pills|work from home|make money online"""
CHINESE = """点击购买|立即购买|马上抢购|加入购物车|限时优惠|限时抢购|限时特价|免费领取|免费试用|免费咨询|全场包邮
|全国包邮|优惠券|优惠码|折扣码|加微信|加我微信|微信号[:：]|添加微信|扫码关注|扫一扫|扫描二维码
|长按识别|长按二维码|关注(?:我们的)?(?:微信)?公众号|进群|加qq群|qq群[:：]|联系客服|在线客服|客服热线
|咨询热线|服务热线|招商热线|招商加盟|联系电话[:：]|广告合作|商务合作|投放广告|下载app|下载客户端
|立即下载|立即注册|注册送|首充|返利|代开发票|代办证件|贷款办理|无抵押贷款|网上赌场|真人娱乐|博彩
|彩票投注|六合彩|时时彩|版权所有|备案号|icp备|转载请注明|未经许可不得转载|本文来源于网络
|责任编辑[:：]|上一篇[:：]|下一篇[:：]|相关阅读|相关推荐|热门推荐|猜你喜欢|返回顶部|返回首页
|设为首页|加入收藏|友情链接|点赞关注|一键三连"""
_ENGLISH = re.compile("|".join(ENGLISH.replace("\n", "").split("|")))
_CHINESE = re.compile("|".join(CHINESE.replace("\n", "").split("|")))


def is_ad(line: str) -> bool:
    """Whether a line is an advert or a page's furniture."""
    low = line.strip().lower()
    if low.isascii():
        return len(low) <= LONGEST and _ENGLISH.search(low) is not None
    return (len(low) <= LONGEST_CHINESE and _CHINESE.search(low) is not None) or (
        len(low) <= LONGEST and _ENGLISH.search(low) is not None
    )


def step(documents: Iterable[Document], drop: Drop) -> Iterator[Document]:
    """Take adverts out of documents; drop those of which more than MOST was adverts."""
    for document in documents:
        whole = _ENGLISH.search(document.text.lower()) or _CHINESE.search(document.text.lower())
        lines = document.text.split("\n")
        ads = [line for line in lines if is_ad(line)] if whole else []
        gone, size = sum(map(len, ads)), max(len(document.text), 1)
        if gone > MOST * size:
            drop(
                document, f"{gone / size:.0%} in {len(ads)} lines of adverts, limit {MOST:.0%}; {ads[0].strip()[:40]!r}"
            )
        elif ads:
            text = "\n".join(line for line in lines if not is_ad(line))
            yield replace(document, text=text, meta={**document.meta, "ads": len(ads)})
        else:
            yield document
